"""MLflow's own scoring client: ping, version, and predictions from data frames and arrays."""

import json
import sys
from typing import Any

import numpy as np
import pandas as pd
from mlflow.pyfunc.scoring_server.client import ScoringServerClient

address, token = sys.argv[1:]
host, _, port = address.partition(":")
client = ScoringServerClient(f"any:{token}@{host}", int(port))
client.wait_server_ready()
frame = pd.DataFrame(
    {"sky__wind": [3.0, np.nan], "sky__cover": ["cloudy", "clear"], "carrier": ["UA", "AA"], "hour": [17, 18], "gust": [6.0, 8.0]}
)
keys = pd.DataFrame({"origin": ["JFK"], "carrier": ["UA"], "scheduled_at": ["2013-01-01T17:30:00Z"], "factor": [2.0]})
said: dict[str, Any] = {"version": client.get_version()}
for name, data in {
    "frame": frame,
    "keys": keys,
    "rows": frame.fillna(0.0).to_numpy(),
}.items():
    got = client.invoke(data)
    said[name] = [row[0] for row in got.get_predictions().to_numpy().tolist()]
try:
    client.invoke(frame[["hour"]])
except Exception as error:
    said["bad"] = str(error)
sys.stdout.write(json.dumps(said))
