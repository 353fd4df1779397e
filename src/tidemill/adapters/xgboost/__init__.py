"""XGBoost: models of gradient-boosted trees."""
