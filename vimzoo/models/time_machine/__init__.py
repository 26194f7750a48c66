"""TimeMachine: forecasts of time series.

`TimeMachine: A Time Series is Worth 4 Mambas for Long-term Forecasting`, Ahamed & Cheng, ECAI 2024, arXiv:2403.09898;
code by its authors at https://github.com/Atik-Ahamed/TimeMachine (Apache-2.0).
"""

from .model import TimeMachine

__all__ = ["TimeMachine"]
