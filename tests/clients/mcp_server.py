"""An MCP server over stdio with one tool, as a user would write it."""

try:
    from mcp.server.fastmcp import FastMCP as Server
except ImportError:
    from mcp.server.mcpserver import MCPServer as Server

server = Server("weather")


@server.tool()
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"It is sunny in {city}."


server.run(transport="stdio")
