r"""A corpus as a TFDS dataset, from a local archive or folder; nothing is fetched.

    python -m experiments.inputs.prepare --corpus=flores200_dataset.tar.gz \
        --data_dir=DIR --name=flores200

The folder that it prints is then a corpus for every other experiment.
"""

from absl import flags

from experiments import launch
from ilo_jax.corpora import prepared

FLAGS = flags.FLAGS


def main() -> None:
    """Prepare the corpus of the flags, and print where it is."""
    most = FLAGS.most_bytes
    print(prepared.prepare(FLAGS.corpus, FLAGS.data_dir, name=FLAGS.name, most_bytes=most))


if __name__ == "__main__":
    flags.DEFINE_string("corpus", None, "Archive, folder or table.", required=True)
    flags.DEFINE_string("data_dir", None, "Where datasets are kept.", required=True)
    flags.DEFINE_string("name", None, "Of the dataset, in lower case.", required=True)
    flags.DEFINE_integer("most_bytes", prepared.MOST_BYTES, "That an archive may unpack to.")
    launch.start(main)
