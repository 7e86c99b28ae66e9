"""From the trained model to ONNX: export the graphs, prove them against torch, write the bundle."""
