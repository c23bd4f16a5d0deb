"""Tools by voice: what the model calls comes out as OpenAI's events, and what the tool gave is spoken."""

from __future__ import annotations

import asyncio
import json

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("silero_vad")

from tests.app.fixtures_realtime import KEY, MODEL, Caller, calling
from tests.app.test_realtime_clients import INSTALL, in_time
from tests.app.test_realtime_conversation import asked
from tests.app.test_server_realtime import only_session
from tests.test_tools import CLOCK, WEATHER, Script

TOOLS = [{"type": "function", **WEATHER["function"]}, CLOCK]
ARGUMENTS = '{"city": "Paris", "unit": "f"}'
QUESTION = "How warm is it in Paris?"
CALLS = f'[{{"name": "get_weather", "arguments": {ARGUMENTS}}}, {{"name": "clock", "arguments": {{}}}}]'
ANSWER = '{"user question text": "", "assistant response text": "It is warm."'
SPOKEN = {"output_modalities": ["audio"]}


def script_calls(script: Script, calls: str = CALLS, question: str = QUESTION) -> None:
    script.next(f'{{"user question text": {json.dumps(question)}, "assistant tool calls": {calls}')


@pytest.fixture()
def script(running, monkeypatch) -> Script:
    return Script(running.service.assistant, monkeypatch)


@pytest.fixture()
def caller(running):
    with calling(running.url) as caller:
        caller.manual()
        yield caller


def called(caller: Caller, tools: list[dict] = TOOLS) -> list[dict]:
    """Ask the question; the calls that come."""
    caller.update(tools=tools)
    caller.item("user", QUESTION)
    caller.events = []
    return caller.answer(**SPOKEN)["output"]


def give(caller: Caller, call: dict, output: str) -> None:
    item = {"type": "function_call_output", "call_id": call["call_id"], "output": output}
    caller.send("conversation.item.create", item=item)
    assert caller.until("conversation.item.done")["item"]["output"] == output


def test_calls_their_results_and_the_spoken_answer(caller, script, running) -> None:
    script_calls(script)
    weather, clock = called(caller)
    assert (weather["type"], weather["name"], weather["arguments"]) == ("function_call", "get_weather", ARGUMENTS)
    assert (clock["name"], clock["arguments"], clock["status"]) == ("clock", "{}", "completed")
    kinds = [event["type"] for event in caller.events]
    once = [kind for index, kind in enumerate(kinds) if index == 0 or kind != kinds[index - 1]]
    one_call = [
        "response.output_item.added",
        "conversation.item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "conversation.item.done",
    ]
    assert once == ["response.created", *one_call, *one_call, "response.done"]
    for call in (weather, clock):
        of_call = [event for event in caller.events if event.get("call_id") == call["call_id"]]
        assert "".join(event.get("delta", "") for event in of_call) == call["arguments"]
        assert of_call[-1]["arguments"] == call["arguments"] and of_call[-1]["name"] == call["name"]
        assert {event["item_id"] for event in of_call} == {call["id"]}
    assert [each["item"]["status"] for each in caller.events if each["type"] == "response.output_item.added"] == [
        "in_progress"
    ] * 2

    give(caller, weather, "68 °F")
    give(caller, clock, "")
    script.next(ANSWER)
    caller.events = []
    done = caller.answer(**SPOKEN)
    (message,) = done["output"]
    assert message["type"] == "message" and message["content"][0]["transcript"] == "It is warm."
    assert any(event["type"] == "response.output_audio.delta" for event in caller.events)
    assert "68 °F" in asked(only_session(running), running)[-1]


def test_a_history_with_calls_is_read_back(caller, script, running) -> None:
    caller.update(tools=TOOLS)
    caller.item("user", QUESTION)
    call = {"type": "function_call", "call_id": "call_1", "name": "get_weather", "arguments": ARGUMENTS}
    caller.send("conversation.item.create", item=call)
    assert caller.until("conversation.item.done")["item"]["name"] == "get_weather"
    give(caller, call, "68 °F")
    script.next(ANSWER)
    assert caller.answer()["output"][0]["content"][0]["text"] == "It is warm."
    assert len(only_session(running)) == 2


def test_the_choice_holds_the_models_own_words(caller, running) -> None:
    """Without a script: whatever the shipped model writes is a call of this tool with these arguments, or none."""
    caller.update(tools=TOOLS, tool_choice={"type": "function", "name": "get_weather"})
    caller.item("user", QUESTION)
    (call, *_) = caller.answer(**SPOKEN)["output"]
    assert call["name"] == "get_weather" and isinstance(json.loads(call["arguments"])["city"], str)
    give(caller, call, "warm")
    (message,) = caller.answer(**SPOKEN, tool_choice="none")["output"]
    assert message["type"] == "message"
    assert caller.update(tools=[], tool_choice="auto")["session"]["tools"] == []
    caller.item("user", "Hello.")
    assert caller.answer(**SPOKEN)["output"][0]["type"] == "message"


@pytest.mark.parametrize(
    ("tools", "named"),
    [
        ([{"type": "mcp"}], "tools[0].type"),
        ([{"type": "function"}], "tools[0].name"),
        ([{**CLOCK, "parameters": {"type": "object", "not": {}}}], 'tools[0].parameters: the keyword "not"'),
        ([CLOCK, CLOCK], "clock is there twice"),
    ],
)
def test_wrong_tools_are_told(caller, tools: list[dict], named: str) -> None:
    caller.send("session.update", session={"tools": tools})
    assert named in caller.recv()["error"]["message"]
    caller.send("conversation.item.create", item={"type": "function_call_output", "call_id": "x", "output": "y"})
    assert caller.recv()["error"]["param"] == "item.call_id"
    assert caller.update()["session"]["tools"] == []


def test_a_function_tool_of_openai_agents(running, script) -> None:
    agents = pytest.importorskip("agents", reason=INSTALL)
    realtime = pytest.importorskip("agents.realtime", reason=INSTALL)
    cities: list[str] = []

    def weather(city: str) -> str:
        """The weather in a city."""
        cities.append(city)
        script.next(ANSWER)
        return "68 °F"

    async def talk() -> None:
        tool = agents.function_tool(weather)
        agent = realtime.RealtimeAgent(name="Assistant", instructions="Be kind.", tools=[tool])
        model = {"url": f"ws://127.0.0.1:{running.port}/v1/realtime?model={MODEL}", "api_key": KEY}
        script_calls(script, '[{"name": "weather", "arguments": {"city": "Paris"}}]')
        heard, ends = 0, []
        async with await realtime.RealtimeRunner(agent).run(model_config=model) as session:
            await session.send_message(QUESTION)
            async for event in session:
                assert event.type != "error", event
                ends += [event.output] if event.type == "tool_end" else []
                heard += len(event.audio.data) if event.type == "audio" else 0
                if event.type == "agent_end" and heard:
                    break
            said = session._history[-1]
        assert cities == ["Paris"] and ends == ["68 °F"] and heard
        assert said.role == "assistant" and said.content[0].transcript == "It is warm."

    in_time(asyncio.wait_for(talk(), 60))
