from hypothesis import HealthCheck, settings
from tests.store.test_model import StoreMachine


class TestLong(StoreMachine.TestCase):
    settings = settings(
        max_examples=400, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
