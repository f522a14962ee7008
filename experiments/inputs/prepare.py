r"""A corpus as a TFDS dataset, from a local archive or folder; nothing is fetched.

    python -m experiments.inputs.prepare --corpus=flores200_dataset.tar.gz \
        --data_dir=DIR --name=flores200

The folder that it prints is then a corpus for every other experiment.
"""

from absl import flags

from experiments import launch
from ilo_jax.corpora.archives import MOST, Most
from ilo_jax.corpora.preparing import prepare

FLAGS = flags.FLAGS


def main() -> None:
    """Prepare the corpus of the flags, and print where it is."""
    folder = prepare(
        FLAGS.corpus,
        FLAGS.data_dir,
        name=FLAGS.name,
        drop_incomplete=FLAGS.drop_incomplete,
        most=Most(FLAGS.most_bytes, FLAGS.most_file_bytes, FLAGS.most_files),
    )
    print(folder)


if __name__ == "__main__":
    flags.DEFINE_string("corpus", None, "Archive, folder or table.", required=True)
    flags.DEFINE_string("data_dir", None, "Where datasets are kept.", required=True)
    flags.DEFINE_string("name", None, "Of the dataset, in lower case.", required=True)
    incomplete = "Leave out, in all languages, lines that are empty or a placeholder in one."
    flags.DEFINE_bool("drop_incomplete", False, incomplete)
    whole, files = "That an archive may unpack to.", "That it may hold, folders included."
    flags.DEFINE_integer("most_bytes", MOST.bytes, whole, lower_bound=1)
    each = "That each of its files may."
    flags.DEFINE_integer("most_file_bytes", MOST.file_bytes, each, lower_bound=1)
    flags.DEFINE_integer("most_files", MOST.files, files, lower_bound=1)
    launch.start(main)
