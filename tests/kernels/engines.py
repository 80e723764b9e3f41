"""Having an operation computed by the engine and in the configuration that a test is about."""

from course.replay import calls as replay


class Forgetful(dict):
    """What was chosen is chosen anew at the next call."""

    def __setitem__(self, problem, choice):
        pass


def offer(monkeypatch, engines, configs) -> None:
    """Until the test's end `engines` asks configs(problem) for each call what it offers."""
    replay.forget()
    monkeypatch.setattr(replay, "ON", False)  # or a call that was kept would be repeated
    monkeypatch.setattr(engines, "chosen", Forgetful())
    monkeypatch.setattr(engines, "configs", configs)
