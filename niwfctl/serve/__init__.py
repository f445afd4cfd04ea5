"""An OpenAI-compatible endpoint whose models are the repository's capabilities."""
