"""The mathematics of the field. Knows neither git nor files."""
