import json
from pathlib import Path

import numpy as np
import pytest
from transformers import LlamaConfig

from ilo_jax.generation.ends import end_tokens
from ilo_jax.models.hub.folder import open_folder
from tests.evaluation.material import EOS, VOCAB, tokenizer_of


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The folder of a decoder without weights, with a tokenizer whose EOS token is </s>."""
    LlamaConfig(
        vocab_size=len(VOCAB),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        architectures=["LlamaForCausalLM"],
    ).save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"temperature": 0.6}')
    tokenizer_of(bos_token="<s>", eos_token="</s>").save_pretrained(tmp_path)
    return tmp_path


def put(folder: Path, file: str, eos: object) -> None:
    """Have a file of settings name some end tokens; ...: none."""
    path = folder / file
    record = json.loads(path.read_text()) if path.exists() else {}
    record = {key: value for key, value in record.items() if key != "eos_token_id"}
    path.write_text(json.dumps(record if eos is ... else record | {"eos_token_id": eos}))


@pytest.mark.parametrize(
    ("of_generation", "of_config", "expected"),
    [
        ([5, 7], 9, [5, 7]),
        (5, [9, 10], [5]),
        (..., [9, 10], [9, 10]),
        (None, 9, [9]),
        (..., ..., [EOS]),
        (..., None, [EOS]),
    ],
)
def test_the_first_that_names_end_tokens_counts(own, of_generation, of_config, expected):
    put(own, "generation_config.json", of_generation)
    put(own, "config.json", of_config)
    ends = end_tokens(open_folder(own))
    assert np.flatnonzero(ends).tolist() == expected
    assert ends.shape == (len(VOCAB),)


def test_a_folder_need_not_have_settings_of_generation(own):
    (own / "generation_config.json").unlink()
    put(own, "config.json", [3])
    assert np.flatnonzero(end_tokens(open_folder(own))).tolist() == [3]


def test_without_an_end_token_nothing_ends(own):
    put(own, "generation_config.json", ...)
    put(own, "config.json", ...)
    tokenizer_of().save_pretrained(own)
    assert not end_tokens(open_folder(own)).any()


def test_others_are_given_by_name(own):
    put(own, "generation_config.json", 5)
    assert np.flatnonzero(end_tokens(open_folder(own), more=["ab", "<s>"])).tolist() == [
        5,
        256,
        258,
    ]


def test_what_the_tokenizer_lacks_is_refused_all_at_once(own):
    put(own, "generation_config.json", [5, 259, -1])
    with pytest.raises(ValueError, match="end token") as refused:
        end_tokens(open_folder(own), more=["<eot>"])
    assert str(refused.value) == (
        f"an end token must be one of the 259 of the tokenizer in {own}; mend what names another; "
        "got id 259 (eos_token_id of generation_config.json), "
        "id -1 (eos_token_id of generation_config.json), '<eot>'"
    )


@pytest.mark.parametrize("odd", ["2", [5, "2"], True, {"a": 1}, [None]])
def test_what_is_no_id_is_refused(own, odd):
    put(own, "generation_config.json", odd)
    with pytest.raises(ValueError, match="must be a token id or a list of them, got "):
        end_tokens(open_folder(own))


@pytest.mark.parametrize(
    ("text", "said"), [("{", "is not JSON"), ("[]", "a JSON object, got list")]
)
def test_damaged_settings_of_generation_are_refused(own, text, said):
    (own / "generation_config.json").write_text(text)
    with pytest.raises(ValueError, match=rf"generation_config.json .*{said}"):
        end_tokens(open_folder(own))
