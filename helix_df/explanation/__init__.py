"""Why a plan has the flow it has, and what would raise it."""
