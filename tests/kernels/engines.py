"""Having an operation computed by the engine and in the configuration that a test is about."""


class Forgetful(dict):
    """What was chosen is chosen anew at the next call."""

    def __setitem__(self, problem, choice):
        pass


def offer(monkeypatch, engines, configs) -> None:
    """Until the test's end `engines` asks configs(problem) for each call what it offers."""
    monkeypatch.setattr(engines, "chosen", Forgetful())
    monkeypatch.setattr(engines, "configs", configs)
