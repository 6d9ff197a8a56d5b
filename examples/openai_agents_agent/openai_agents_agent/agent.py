"""An agent of the OpenAI Agents SDK: its tokens, tool calls and tool results become the task's events."""

from collections.abc import AsyncIterator

from agents import Agent, OpenAIChatCompletionsModel, RunConfig, Runner, function_tool
from openai import APIStatusError, AsyncOpenAI
from openai.types.responses import ResponseTextDeltaEvent

from orbiter.distributed import RunContext, TransientError
from orbiter.distributed.models import Event, ToolCallEvent, ToolResultEvent


@function_tool
def weather(city: str) -> str:
    """Tell the weather of a city."""
    return f"sunny in {city}"


async def run(context: RunContext) -> AsyncIterator[Event | str]:
    # The worker's OPENAI_API_KEY and OPENAI_BASE_URL. Retrying is the queue's business.
    async with AsyncOpenAI(max_retries=0) as client:
        model = OpenAIChatCompletionsModel(context.options["model"], client)
        agent = Agent(name="guide", instructions="You guide travellers.", tools=[weather], model=model)
        turns = [*context.messages, {"role": "user", "content": context.input}]
        running = Runner.run_streamed(agent, turns, run_config=RunConfig(tracing_disabled=True))
        names: dict[str, str] = {}
        try:
            async for event in running.stream_events():
                if event.type == "raw_response_event" and isinstance(event.data, ResponseTextDeltaEvent):
                    yield event.data.delta
                elif event.type == "run_item_stream_event" and event.name == "tool_called":
                    call = event.item.raw_item
                    names[call.call_id] = call.name
                    yield ToolCallEvent(tool_name=call.name, tool_call_id=call.call_id)
                elif event.type == "run_item_stream_event" and event.name == "tool_output":
                    call_id, result = event.item.raw_item["call_id"], str(event.item.output)
                    yield ToolResultEvent(tool_name=names[call_id], tool_call_id=call_id, result=result)
        except APIStatusError as error:
            wait = error.response.headers.get("retry-after", "")
            raise TransientError(str(error), retry_after=float(wait) if wait.isdigit() else None) from error
        finally:
            running.cancel()
