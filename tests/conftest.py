"""Settings shared by every test."""

import os

os.environ.setdefault("OPFLOW_PROFILE", "default")  # what the cost model chooses is then fixed

from hypothesis import HealthCheck, settings
from hypothesis.database import InMemoryExampleDatabase

settings.register_profile(
    "default",
    deadline=None,
    max_examples=int(os.environ.get("OPFLOW_EXAMPLES", "20")),
    database=InMemoryExampleDatabase(),
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("default")
