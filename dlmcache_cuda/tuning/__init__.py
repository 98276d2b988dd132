"""How much a cache changes on the user's prompts, and settings that change as little as wanted."""
