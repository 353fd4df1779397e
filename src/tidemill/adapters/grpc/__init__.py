"""gRPC: the Open Inference Protocol's `GRPCInferenceService` beside the model server's HTTP."""
