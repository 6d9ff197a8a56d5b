"""A LangGraph agent: its tokens, tool calls and tool results become the task's events."""

from collections.abc import AsyncIterator

from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from orbiter.distributed import RunContext
from orbiter.distributed.models import Event, TextEvent, ToolCallEvent, ToolResultEvent


def weather(city: str) -> str:
    """Tell the weather of a city."""
    return f"sunny in {city}"


async def ask(state: MessagesState) -> dict:
    # Instead of these lines:
    # await init_chat_model("openai:gpt-4o").bind_tools([weather]).ainvoke(state["messages"])
    if not isinstance(state["messages"][-1], ToolMessage):
        call = {"name": "weather", "args": {"city": "Oslo"}, "id": "call_1"}
        return {"messages": [AIMessage("", tool_calls=[call])]}
    return {"messages": [await GenericFakeChatModel(messages=iter(["Take a hat to Oslo."])).ainvoke("")]}


def graph():
    builder = StateGraph(MessagesState).add_node("model", ask).add_node("tools", ToolNode([weather]))
    builder.add_edge(START, "model").add_conditional_edges("model", tools_condition)
    builder.add_edge("tools", "model")
    return builder.compile()


async def run(context: RunContext) -> AsyncIterator[Event]:
    turns = {"messages": [*context.messages, {"role": "user", "content": context.input}]}
    async for mode, part in graph().astream(turns, stream_mode=["messages", "updates"]):
        if mode == "messages":
            if isinstance(part[0], AIMessage) and part[0].text:
                yield TextEvent(text=part[0].text, agent_name=part[1]["langgraph_node"])
            continue
        for message in [message for update in part.values() for message in update["messages"]]:
            for call in getattr(message, "tool_calls", []):
                yield ToolCallEvent(tool_name=call["name"], tool_call_id=call["id"])
            if isinstance(message, ToolMessage):
                name, result = message.name or "", str(message.content)
                yield ToolResultEvent(tool_name=name, tool_call_id=message.tool_call_id, result=result)
