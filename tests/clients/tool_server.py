"""An MCP server with an interpreter, a browser and tools that misbehave: `python tool_server.py stdio|http`.

Over HTTP it takes a free port and prints its URL.
"""

import asyncio
import contextlib
import io
import socket
import sys

try:
    from mcp.server.fastmcp import FastMCP as Server
except ImportError:
    from mcp.server.mcpserver import MCPServer as Server

server = Server("tools")
visits = []


@server.tool()
def python(code: str) -> str:
    """Runs code and returns what it prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, {})
    return out.getvalue()


@server.tool()
def search(query: str) -> str:
    """Searches the web."""
    visits.append(query)
    return f"[{len(visits) - 1}] A page about {query} 【0†A page】"


@server.tool()
def open(id: int | str = -1, cursor: int = -1) -> str:
    """Opens a page."""
    return f"L0: the page {id} of {cursor}"


@server.tool()
def find(pattern: str, cursor: int = -1) -> str:
    """Finds a pattern in a page."""
    return f"L0: {pattern}"


@server.tool()
def echo(text: str) -> str:
    """Returns the text."""
    return text


@server.tool()
def fail() -> str:
    """Fails."""
    raise ValueError("it broke")


@server.tool()
async def hang() -> str:
    """Never answers."""
    await asyncio.Event().wait()


@server.tool()
def flood(bytes: int) -> str:
    """Returns too much."""
    return "x" * bytes


def http():
    import uvicorn

    listener = socket.create_server(("127.0.0.1", 0))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}/mcp", flush=True)
    config = uvicorn.Config(server.streamable_http_app(), log_level="error")
    asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))


if sys.argv[1:] == ["http"]:
    http()
else:
    server.run(transport="stdio")
