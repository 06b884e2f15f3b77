"""Each test of the backend begins anew."""

import pytest


@pytest.fixture(autouse=True)
def _begins_anew(dynamo_anew: None) -> None:
    pass
