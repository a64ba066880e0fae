"""What tests of weights share: the tensors of one tiny ViT."""

import pytest
from tiny_weights import shaken, vit


@pytest.fixture(scope="module")
def state():
    return shaken(vit()).state_dict()
