"""Every family as `transformers` saves it is opened, cut into tokens and loaded, unedited."""

import numpy as np
import pytest

from ilo_jax.corpora.parallel import Parallel
from ilo_jax.corpora.tokens import token_ids
from ilo_jax.models import parameters
from ilo_jax.models.hub import loading
from ilo_jax.models.hub.families import FAMILIES
from ilo_jax.models.hub.folder import open_folder
from tests.models import saved
from tests.models.hub.same import ONE


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_saved_folder_is_read_without_an_edit(model_type, tmp_path, caplog):
    model, tokenizer = saved.save(model_type, tmp_path)
    folder = open_folder(tmp_path)
    texts = saved.sentences(3)
    expected = tokenizer(texts)["input_ids"]
    assert folder.tokenizer(texts)["input_ids"] == expected
    corpus = Parallel(languages=("all",), sentences=(tuple(texts),), source="saved")
    (ids,) = token_ids(corpus, folder.tokenizer, prefix="", limits=folder.config.limits)
    assert ids.tokens.tolist() == [token for sentence in expected for token in sentence]
    table = parameters.weights(loading.load(folder, mesh=ONE))["embed/tokens/embedding"]
    theirs = model.get_input_embeddings().weight.detach().numpy()
    assert np.array_equal(table, theirs)
    assert not caplog.messages
