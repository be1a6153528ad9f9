import pytest
from tiny_models import build
from transformers import PreTrainedModel


@pytest.fixture
def model_qwen2() -> PreTrainedModel:
    return build("qwen2")
