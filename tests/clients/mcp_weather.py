"""An MCP server with one tool, for clients that bring the tools of such servers as a namespace."""

from __future__ import annotations

from mcp.server import MCPServer
from mcp.types import ToolAnnotations

server = MCPServer("weather")


# Clients ask nobody before they call what only reads.
@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def forecast(city: str) -> str:
    """The weather in a city."""
    return f"sun in {city}"


server.run()
