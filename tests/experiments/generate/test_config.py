from typing import Any

import pytest

from experiments.generate.config import Config, check


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "prompt, or else prompts, must be given, got neither"),
        ({"prompt": "a", "prompts": "b"}, "prompt, or else prompts, must be given, got both"),
        ({"prompt": "a", "min_tokens": 9, "max_tokens": 8}, "at most max_tokens, 8; got 9"),
        ({"prompt": "a", "samples": 2}, "samples must be 1 where temperature is 0: .* got 2"),
        ({"prompt": "a", "temperature": -1.0}, "temperature must be at least 0, got -1.0"),
        ({"prompt": "a", "top_p": 0.0}, "top_p must be above 0, got 0.0"),
        ({"prompt": "a", "top_p": 1.5}, "top_p must be at most 1, got 1.5"),
        ({"prompt": "a", "repetition_penalty": float("inf")}, "must be finite, got inf"),
        ({"prompt": "a", "stops": "\n"}, r'must be a JSON list of strings such as \["\\n\\n"\]'),
        ({"prompt": "a", "stops": '["a", ""]'}, "stops must be a JSON list of strings"),
        ({"prompt": "a", "stops": '"a"'}, "stops must be a JSON list of strings"),
    ],
    ids=str,
)
def test_what_no_run_could_use_is_refused(given: dict[str, Any], said):
    with pytest.raises(ValueError, match=said):
        check(Config(**given))


def test_what_a_run_can_use_passes():
    check(Config(prompts="asked.txt", temperature=0.5, samples=3, top_p=1.0, stops='["a"]'))


def test_stop_strings_are_a_json_list():
    assert Config(stops='["\\n\\n", "é"]').stop_strings == ["\n\n", "é"]
    assert Config().stop_strings == []
