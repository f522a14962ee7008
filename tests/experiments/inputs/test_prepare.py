"""A corpus prepared by the command is a corpus for the jobs."""

from experiments.ilo import Config
from experiments.states import read_corpus
from ilo_jax.corpora import parallel
from tests.pairs import ended, start


def test_a_prepared_corpus_is_read_like_its_folder(text, tmp_path):
    command = ["-m", "experiments.inputs.prepare", f"--corpus={text}", f"--data_dir={tmp_path}"]
    (done,) = ended([start([*command, "--name=tiny"])])
    assert done.returncode == 0, done.stderr
    folder = done.stdout.strip().splitlines()[-1]
    assert read_corpus(Config(corpus=folder)).hash == parallel.read(text).hash
    chosen = read_corpus(Config(corpus=folder, languages="eng_Latn,aaa_Latn", sentences=3))
    assert chosen.languages == ("eng_Latn", "aaa_Latn")
    assert len(chosen.sentences[0]) == 3
