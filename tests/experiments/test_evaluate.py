"""The evaluation, end to end on tiny models: what it measures, leaves and refuses."""

import csv
import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from experiments import evaluate as module
from experiments.evaluate import Config, measure
from experiments.launch import Run
from tests.models.variants import perturb

ROOT = Path(__file__).parents[2]
FILES = ("evaluation.csv", "choices.csv", "retrieval.csv")


@pytest.fixture(scope="module")
def decoder(tiny, tmp_path_factory) -> Path:
    """A folder with a random two-block Llama that reads bytes; a text begins with "!"."""
    folder = tmp_path_factory.mktemp("decoder")
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=96,
    )
    model = LlamaForCausalLM(config)
    perturb(model, seed=1)
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.bos_token = "!"
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def config(decoder: Path, text: Path) -> Config:
    return Config(model=str(decoder), corpus=str(text), batch_tokens=256)


@pytest.fixture
def questions(tmp_path) -> str:
    """Two languages, with two and three options."""
    records = [
        {"context": "Das ist", "options": ["gut", "schlecht."], "answer": 1, "language": "de"},
        {"context": "", "options": ["a", "bb", "ccc"], "answer": 0, "language": "de"},
        {"context": "This is ", "options": ["fine", "not"], "answer": 0, "language": "en"},
    ]
    file = tmp_path / "questions.jsonl"
    file.write_text("\n".join(map(json.dumps, records)) + "\n")
    return str(file)


def rows(file: Path) -> list[dict[str, str]]:
    with file.open() as stream:
        return list(csv.DictReader(stream))


class Judge:
    """The model by torch, on bytes."""

    def __init__(self, folder: Path):
        self.model = LlamaForCausalLM.from_pretrained(folder).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def __call__(self, context: str, option: str) -> float:
        """Log-likelihood of the option's bytes."""
        given = self.tokenizer(context)["input_ids"] or [self.tokenizer.bos_token_id]
        ids = given + self.tokenizer(option)["input_ids"]
        with torch.no_grad():
            logs = self.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        return sum(logs[i - 1, ids[i]].item() for i in range(len(given), len(ids)))


def test_bits_per_byte_are_those_of_torch(config, decoder, text, tmp_path, capsys):
    """Of a tokenizer of bytes, a token is a byte."""
    judge, results = Judge(decoder), measure(config, Run(tmp_path))
    assert results.answers is None
    assert results.retrieved is None
    table = rows(tmp_path / "evaluation.csv")
    assert [row["language"] for row in table] == sorted(p.stem for p in text.glob("*.txt"))
    assert {row["model"] for row in table} == {decoder.name}
    for row in table:
        lines = (text / f"{row['language']}.txt").read_text().splitlines()
        nats, count = -sum(judge("", line) for line in lines), sum(map(len, lines))
        assert int(row["tokens"]) == count
        assert float(row["loss_per_token"]) == pytest.approx(nats / count, rel=1e-5)
        assert float(row["bits_per_byte"]) == pytest.approx(nats / count / math.log(2), rel=1e-5)
    assert {p.name for p in tmp_path.iterdir()} == {"evaluation.csv", "config.json"}
    record = json.loads((tmp_path / "config.json").read_text())
    assert record["config"]["batch_tokens"] == 256
    assert set(record["key"]["model"]) >= {"model.safetensors", "tokenizer.json"}
    mean = np.mean([float(row["bits_per_byte"]) for row in table])
    assert f"{mean:.3f}" in capsys.readouterr().out


def test_how_much_is_computed_at_a_time_is_left_to_the_devices(config, tmp_path, monkeypatch):
    def asked(*_, batch_tokens, dtype):
        raise LookupError(batch_tokens)

    monkeypatch.setattr(module, "compiled_likelihood", asked)
    with pytest.raises(LookupError, match=r"^512$"):
        measure(dataclasses.replace(config, batch_tokens=0), Run(tmp_path))


def test_choices_are_those_of_torch(config, questions, decoder, tmp_path):
    """An option follows its context after one space, also where there is no context."""
    config.likelihood, config.questions = False, questions
    judge, results = Judge(decoder), measure(config, Run(tmp_path / "run"))
    assert results.texts is None
    plain, normalized = {"de": [], "en": []}, {"de": [], "en": []}
    for line in Path(questions).read_text().splitlines():
        asked = json.loads(line)
        context = asked["context"].rstrip()
        space = asked["context"][len(context) :] + " "
        likely = [judge(context, space + option) for option in asked["options"]]
        shares = [one / len(option) for one, option in zip(likely, asked["options"], strict=True)]
        plain[asked["language"]].append(np.argmax(likely) == asked["answer"])
        normalized[asked["language"]].append(np.argmax(shares) == asked["answer"])
    table = {row["language"]: row for row in rows(tmp_path / "run/choices.csv")}
    for language in ("de", "en"):
        assert float(table[language]["accuracy"]) == np.mean(plain[language])
        assert float(table[language]["normalized"]) == np.mean(normalized[language])
    assert float(table["de"]["chance"]) == pytest.approx(5 / 12, rel=1e-5)
    assert float(table["en"]["chance"]) == 0.5
    assert [table[language]["questions"] for language in ("de", "en")] == ["2", "1"]
    assert not (tmp_path / "run/evaluation.csv").exists()
    digests = json.loads((tmp_path / "run/config.json").read_text())["key"]["questions"]
    assert list(digests) == [questions]


def test_questions_of_several_files_are_put_together(config, questions, tmp_path):
    config.likelihood, config.questions = False, f"{questions}, {questions}"
    results = measure(config, Run(tmp_path / "run"))
    assert results.answers is not None
    assert results.answers.languages == ("de", "en")
    assert results.answers.scores.questions.tolist() == [4, 2]


def test_retrieval_of_an_encoder_at_every_hidden_state(tiny, text, tmp_path, capsys):
    """A language that repeats another's text finds all, and the others nothing but by chance."""
    folder = tmp_path / "text"
    folder.mkdir()
    for target, source in {"aaa": "aaa_Latn", "bbb": "aaa_Latn", "ccc": "eng_Latn"}.items():
        (folder / f"{target}.txt").write_text((text / f"{source}.txt").read_text())
    config = Config(model=str(tiny), corpus=str(folder), batch_tokens=256)
    config.likelihood, config.retrieval = False, True
    results = measure(config, Run(tmp_path / "run"))
    retrieved = results.retrieved
    assert retrieved is not None
    assert retrieved.shape == (3, 3, 3)
    assert (retrieved[:, 0, 1] == 1).all()
    assert (retrieved[:, 0, 2] < 0.6).all()
    table = rows(tmp_path / "run/retrieval.csv")
    assert [(row["state"], row["language"]) for row in table] == [
        (str(state), code) for state in range(3) for code in ("aaa", "bbb", "ccc")
    ]
    finding = [[np.mean(np.delete(row, i)) for i, row in enumerate(s)] for s in retrieved]
    found = [[np.mean(np.delete(row, i)) for i, row in enumerate(s.T)] for s in retrieved]
    for name, expected in (("finding", finding), ("found", found)):
        values = [float(row[name]) for row in table]
        np.testing.assert_allclose(values, np.ravel(expected), rtol=1e-5)
    assert f"{np.mean(finding[2]):.3f}" in capsys.readouterr().out
    measure(config, Run(tmp_path / "run"))
    assert "using the states stored in" in capsys.readouterr().out


def test_what_was_measured_stays_where_a_later_measure_fails(config, tmp_path, monkeypatch):
    """The states are refused after the likelihoods were written."""
    whole = measure(config, Run(tmp_path / "whole"))

    def refuse(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(module, "stored_states", refuse)
    with pytest.raises(OSError, match="disk full"):
        measure(dataclasses.replace(config, retrieval=True), Run(tmp_path / "half"))
    assert {path.name for path in (tmp_path / "half").iterdir()} == {
        "evaluation.csv",
        "config.json",
    }
    table = [float(row["bits_per_byte"]) for row in rows(tmp_path / "half/evaluation.csv")]
    assert whole.texts is not None
    np.testing.assert_allclose(table, whole.texts.bits_per_byte, rtol=1e-5)


def test_likelihoods_leave_a_trace_where_asked_for(config, tmp_path):
    measure(dataclasses.replace(config, sentences=2), Run(tmp_path, profile=True))
    assert list(tmp_path.glob("trace/**/*.xplane.pb"))


BAD_CONFIGS = [
    ({"dtype": "float16", "pooling": "tokens"}, "dtype must be .*; pooling must be one of mean,"),
    ({"distance": "dot"}, "distance must be one of cosine, euclidean, got 'dot'"),
    ({"shape": "quiz"}, "shape must be one of plain, xnli, xcopa, belebele, got 'quiz'"),
    ({"likelihood": False}, "one of likelihood, questions and retrieval must be asked for"),
    ({"prefix": "query: "}, "prefix must be empty where likelihood is asked for, got 'query: '"),
    (
        {"prefix": "query: ", "likelihood": False, "questions": "no-such-file.jsonl"},
        "prefix must be empty where questions is asked for, got 'query: '",
    ),
    (
        {"prefix": "query: ", "questions": "no-such-file.jsonl"},
        "prefix must be empty where likelihood and questions is asked for, got 'query: '",
    ),
    ({"questions": "no-such-file.jsonl"}, "no questions at no-such-file.jsonl"),
    ({"model": "no-such-folder"}, "model must be a folder or a hub id owner/name"),
    ({"corpus": "no-such-corpus"}, "no-such-corpus"),
]


@pytest.mark.parametrize(("change", "message"), BAD_CONFIGS, ids=lambda v: str(v)[:30])
def test_bad_settings_are_refused_and_earlier_results_stand(config, tmp_path, change, message):
    for name in FILES:
        (tmp_path / name).write_text("earlier")
    with pytest.raises((ValueError, OSError), match=message):
        measure(dataclasses.replace(config, **change), Run(tmp_path))
    assert {(tmp_path / name).read_text() for name in FILES} == {"earlier"}


def test_an_encoder_has_no_likelihoods(config, tiny, tmp_path):
    config.model = str(tiny)
    message = "likelihoods need a decoder with a head, got an encoder without a head"
    with pytest.raises(ValueError, match=message):
        measure(config, Run(tmp_path))
    assert not list(tmp_path.glob("*.csv"))


def test_too_long_sentences_and_questions_are_named(config, text, tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "aaa.txt").write_text("short\n" + "long" * 24 + "\n")
    config.corpus = str(folder)
    with pytest.raises(ValueError, match=rf"got:\n  {folder}/aaa.txt line 2: 97 tokens$"):
        measure(config, Run(tmp_path / "run"))
    file = tmp_path / "long.jsonl"
    asked = {"context": "", "options": ["a", "b" * 99], "answer": 1, "language": "de"}
    file.write_text(json.dumps(asked) + "\n")
    config.corpus, config.questions = str(text), str(file)
    with pytest.raises(ValueError, match=r"got:\n  de question 1 option 2: 101 tokens$"):
        measure(config, Run(tmp_path / "run"))


@pytest.mark.slow
def test_the_command_line(config, tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "experiments.evaluate",
            "--config=configs/evaluate/smollm2.py",
            f"--config.model={config.model}",
            f"--config.corpus={config.corpus}",
            "--config.sentences=2",
            "--config.batch_tokens=256",
            f"--workdir={tmp_path}/run",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "bits_per_byte" in done.stdout
    assert len(rows(tmp_path / "run/evaluation.csv")) == 6
