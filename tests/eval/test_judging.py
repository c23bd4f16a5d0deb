"""Judges: an endpoint that fails, throttles, stalls or writes half a JSON; votes; the cache; the offline judge."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emova.core.errors import InputError
from emova_eval.judges.grading import (
    EndpointJudge,
    OfflineJudge,
    read_json,
    read_score,
    read_styles,
    read_verdict,
    word_overlap,
)
from emova_eval.judges.voices import VoiceJudges
from emova_eval.models.endpoint import Endpoint, EndpointConfig, EndpointError
from emova_eval.report.tables import failures_of
from emova_eval.suite.run_folder import UNREACHED, RunFolder
from emova_eval.suite.runner import figure_of, run_task
from emova_eval.suite.samples import Example, Output
from emova_eval.suite.suite import MmVetTask
from emova_eval.suite.tasks import DialogueTask, GeneralQaTask, KnowledgeTask
from tests.eval.fixtures_models import Unasked


def completion(content: Any) -> str:
    return json.dumps({"choices": [{"message": {"content": content}}]})


STALLS = 0


class Server:
    """Answers each request with the next of ``script``: (status, body, headers); the last one is repeated."""

    def __init__(self) -> None:
        self.script: list[tuple[int, str, dict[str, str]]] = []
        self.bodies: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                status, body, headers = outer.script.pop(0) if len(outer.script) > 1 else outer.script[0]
                if status == STALLS:
                    time.sleep(1)
                    return
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.server.shutdown()
    made.server.server_close()


def endpoint(server: Server, waits: list[float] | None = None, **settings: Any) -> Endpoint:
    config = EndpointConfig(server.url, "judge-1", key_variable="", **{"retries": 3, "timeout": 5, **settings})
    return Endpoint(config, sleep=(waits if waits is not None else []).append)


Answer = tuple[int, str, dict[str, str]]


def good(text: str) -> Answer:
    return 200, completion(text), {}


GOOD = good('{"reason": "ok", "score": 7}')


def test_throttling_errors_and_half_json_are_retried(server: Server) -> None:
    half: Answer = (200, completion("x")[:20], {})
    server.script = [(429, "", {"Retry-After": "7"}), (503, "", {}), half, GOOD]
    waits: list[float] = []
    assert "score" in endpoint(server, waits).ask([{"role": "user", "content": "q"}])
    assert len(server.bodies) == 4 and waits[0] == 7 and waits[1] >= 2


def test_a_refused_request_is_not_repeated_and_a_dead_endpoint_is_an_error(server: Server) -> None:
    server.script = [(401, "no", {})]
    with pytest.raises(EndpointError, match="401"):
        endpoint(server).ask([])
    assert len(server.bodies) == 1
    server.script = [(500, "", {})]
    with pytest.raises(EndpointError, match="500"):
        endpoint(server, retries=2).ask([])
    assert len(server.bodies) == 4
    with pytest.raises(EndpointError):
        Endpoint(EndpointConfig("http://127.0.0.1:1/v1", "m", retries=0), sleep=lambda s: None).ask([])
    with pytest.raises(InputError):
        Endpoint(EndpointConfig("file:///etc/passwd", "m"))


def test_answers_are_cached_by_question_and_vote(server: Server, tmp_path: Path) -> None:
    server.script = [GOOD]
    judge = endpoint(server, cache=str(tmp_path))
    judge.ask([{"role": "user", "content": "q"}])
    judge.ask([{"role": "user", "content": "q"}])
    assert len(server.bodies) == 1
    judge.ask([{"role": "user", "content": "q"}], vote=1)
    assert len(server.bodies) == 2
    next(tmp_path.glob("*.json")).write_text('{"ans')
    judge.ask([{"role": "user", "content": "q"}])
    judge.ask([{"role": "user", "content": "q"}], vote=1)
    assert len(server.bodies) == 3


def test_votes_are_joined_and_nonsense_does_not_vote(server: Server) -> None:
    scores = [good(text) for text in ('{"score": 4}', "I like it", '```json\n{"score": 8}\n```')]
    server.script = [*scores, scores[-1]]
    grade = EndpointJudge(endpoint(server), votes=3).dialogue("q", "r", "a")
    assert grade.value == 6 and grade.votes == (4, 8) and not grade.failure
    assert grade.notes()["votes_lost"] == 1  # shown beside the verdict


def test_a_judge_that_only_writes_nonsense_gives_the_worst_verdict_with_its_reason(server: Server) -> None:
    server.script = [(200, completion('{"score": "ten"}'), {})]
    grade = EndpointJudge(endpoint(server), votes=2).dialogue("q", "r", "a")
    assert grade.value == 0 and "could not be read" in grade.failure
    server.script = [(500, "", {})]
    assert "500" in EndpointJudge(endpoint(server, retries=0)).correct("q", ["r"], "a").failure


def test_a_judge_that_times_out_is_asked_again_and_then_named(server: Server) -> None:
    server.script = [(STALLS, "", {}), GOOD]
    waits: list[float] = []
    assert EndpointJudge(endpoint(server, waits, timeout=0.2)).dialogue("q", "r", "a").value == 7
    assert len(waits) == 1
    server.script = [(STALLS, "", {})]
    grade = EndpointJudge(endpoint(server, timeout=0.2, retries=1)).dialogue("q", "r", "a")
    assert grade.value == 0 and grade.failure.startswith(UNREACHED) and "Timeout" in grade.failure


def test_a_task_counts_and_shows_what_its_judge_could_not_grade(server: Server, tmp_path: Path) -> None:
    class Eyes(Unasked):
        name = "eyes"

        def answer_text(self, images: Any, text: str, audio: str = "") -> Output:
            return Output("a red ball")

    server.script = [(200, completion(text), {}) for text in ("1.0", "splendid", "0.5")]
    items = [Example(id, "What is it?", answers=("ball",)) for id in "abc"]
    task = MmVetTask(items, EndpointJudge(endpoint(server)))
    records = run_task(task, Eyes(), RunFolder(tmp_path, {}))
    found = figure_of(task, records)
    assert found.value == 50 and found.count == 3 and found.failures == 1
    [(_, _, [line])] = failures_of(records)
    assert "could not be read" in line[1] and line[3] == "b"


def test_a_style_judge_that_writes_nonsense_is_wrong_and_shown(server: Server, tmp_path: Path) -> None:
    class Talks(Unasked):
        name = "talks"

        def reply(self, audio: str = "", images: Any = (), text: str = "") -> Output:
            return Output("red", "what is it", "happy", "low", (1,))

    server.script = [(200, completion(text), {}) for text in ('{"emotion": "right"}', '{"emotion": 1}', '{"score": 8}')]
    item = Example("a", "what is it", "a.wav", answers=("red",))
    task = DialogueTask("d", [item], "unit-in-text-out", EndpointJudge(endpoint(server)))
    records = run_task(task, Talks(), RunFolder(tmp_path, {}))
    found = figure_of(task, records)
    assert found.value == 8 and (found.extra["emotion"], found.extra["pitch"]) == (0, 0) and found.failures == 0
    assert "style: judge" in failures_of(records)[0][2][0][1]


def test_majority_decides_and_a_tie_is_incorrect(server: Server) -> None:
    yes, no = (good(json.dumps({"verdict": v})) for v in ("correct", "incorrect"))
    server.script = [yes, no, yes, yes]
    assert EndpointJudge(endpoint(server), votes=3).correct("q", ["r"], "a").value == 1
    server.script = [yes, no, no]
    assert EndpointJudge(endpoint(server), votes=2).correct("q", ["r"], "a").value == 0


def test_styles_and_mmvet(server: Server) -> None:
    server.script = [(200, completion('{"emotion": "right", "pitch": "wrong"}'), {})]
    emotion, pitch = EndpointJudge(endpoint(server)).styles("q", "a", "happy", "low")
    assert (emotion.value, pitch.value) == (1, 0)
    server.script = [(200, completion("0.6"), {})]
    assert EndpointJudge(endpoint(server)).mmvet("q", "r", "a").value == 0.6


def test_the_prompts_have_the_papers_clauses(server: Server) -> None:
    """EMOVA, Fig. 23 to 25, clause for clause; GLM-4-Voice 5.2's scale from 1 to 10."""

    def asked() -> str:
        return str(server.bodies[-1]["messages"][0]["content"])

    judge = EndpointJudge(endpoint(server))
    server.script = [good('{"reason": "r", "score": 7}')]
    judge.dialogue("the question?", "the reference.", "the answer.")
    for clause in ("helpful", "relevant", "accurate", "complete", "0 is the worst, 10 the best", "100 words", "JSON",
                   "the question?", "the reference.", "the answer."):  # fmt: skip
        assert clause in asked(), clause
    assert "without marks" not in asked()
    assert judge.dialogue("q", "r", "heard words", heard=True).value == 7 and "without marks" in asked()

    server.script = [good('{"emotion_analysis": "calm", "emotion": "right", "pitch_analysis": "x", "pitch": "wrong"}')]
    emotion, pitch = judge.styles("q", "a", "happy", "low")
    assert (emotion.value, pitch.value) == (1, 0)
    for clause in ("neutral", "happy", "sad", "angry", "low", "normal", "high", "first say", "appropriate"):
        assert clause in asked(), clause

    server.script = [good('{"reason": "r", "score": 9}')]
    assert judge.quality("q", "a").value == 9 and "1 is the worst, 10" in asked()
    server.script = [good('{"score": 0}')]
    least = judge.quality("q", "b")
    assert least.value == 1 and least.failure  # no such grade: the worst there is


def test_general_questions_are_graded_without_a_reference(server: Server, tmp_path: Path) -> None:
    class Answers(Unasked):
        def reply(self, audio: str = "", images: Sequence[str] = (), text: str = "") -> Output:
            return Output("A pig grunts.", units=(1,))

        def answer_text(self, images: Sequence[str], text: str, audio: str = "") -> Output:
            return Output("In writing.")

    server.script = [good('{"score": 8}'), good('{"score": 5}'), good("nonsense")]
    items = [Example("a", "Name a pet.", "a.wav"), Example("b", "Name a tree."), Example("c", "Name a bird.")]
    task = GeneralQaTask("general-qa-s2t", items, EndpointJudge(endpoint(server, retries=1)))
    records = run_task(task, Answers(), RunFolder(tmp_path, {}))
    figure = figure_of(task, records)
    assert figure.value == pytest.approx((8 + 5 + 1) / 3) and figure.unit == "of 10" and figure.failures == 1
    assert [record.notes.get("said") for record in records] == ["A pig grunts.", "In writing.", "In writing."]


class Ear:
    name = "hears half"

    def transcribe(self, samples: np.ndarray) -> str:
        return "a pig"


class Flat:
    key, name = "utmos", "always three"

    def score(self, samples: np.ndarray) -> float:
        return 3.0


class Speaks(Unasked):
    def reply(self, audio: str = "", images: Sequence[str] = (), text: str = "") -> Output:
        if audio == "silent.wav":
            raise ValueError("no reply")
        return Output("A pig grunts loudly", units=(1,), audio=np.ones(1600, np.float32) * 0.1, sample_rate=16000)


def test_the_rows_of_table_6_grade_what_is_heard(server: Server, tmp_path: Path) -> None:
    items = [Example("a", "Name a pet.", "a.wav"), Example("b", "Name a bird.", "silent.wav")]
    judge = EndpointJudge(endpoint(server, retries=1))
    server.script = [good('{"score": 8}')]
    task = GeneralQaTask("general-qa-s2s", items, judge, Ear(), VoiceJudges((Flat(),), absent={"mosnet": "nowhere"}))
    figure = figure_of(task, run_task(task, Speaks(), RunFolder(tmp_path / "general", {})))
    assert figure.value == (8 + 1) / 2 and figure.judge.endswith("heard by hears half; always three")
    # Two of four words are lost, and of the reply that failed the one that counts for it; 3, and 1 for no sound.
    assert figure.extra == {"speech": pytest.approx(3 / 5), "utmos": 2.0} and task.absent == {"mosnet": "nowhere"}

    server.script = [good('{"verdict": "correct"}')]
    items = [dataclasses.replace(item, answers=("pig",)) for item in items]
    knowledge = KnowledgeTask("knowledge-s2s", items, judge, Ear())
    figure = figure_of(knowledge, run_task(knowledge, Speaks(), RunFolder(tmp_path / "knowledge", {})))
    assert (figure.value, figure.unit, figure.failures) == (5.0, "of 10", 1)
    assert "a pig" in json.dumps(server.bodies[-1]), "what was heard is judged, not what was written"


@pytest.mark.parametrize(
    ("words", "score"),
    [('{"score": 0}', 0), ('so {x} {"score": 10}', 10), ('{"score": 11}', None), ('{"score": true}', None), ("", None)],
)
def test_scores_are_read(words: str, score: float | None) -> None:
    assert read_score(words) == score


def test_half_answers_are_none() -> None:
    assert read_json('{"score": ') is None and read_verdict('{"verdict": "maybe"}') is None
    assert read_styles('{"emotion": "right"}') is None


def test_the_offline_judge_is_named_so() -> None:
    judge = OfflineJudge()
    assert "offline" in judge.name
    assert judge.dialogue("q", "the red ball", "the red ball").value == 10
    assert judge.dialogue("q", "the red ball", "").value == 0
    assert word_overlap("a b c", "a b d") == pytest.approx(2 / 3)
    assert judge.correct("q", ["Paris"], "It is Paris.").value == 1
