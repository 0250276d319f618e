"""Model ids and what stands behind them: Hub, folder, bundled weights, random weights."""
