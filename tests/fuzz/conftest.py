"""Bounded fuzzing: the same examples in every run, few of them, however long each takes."""

try:
    import hypothesis
except ImportError:  # each of the tests says that it is skipped
    pass
else:
    hypothesis.settings.register_profile(
        "bounded",
        max_examples=50,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
    )
    hypothesis.settings.load_profile("bounded")
