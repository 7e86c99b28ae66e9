"""From the trained model to ONNX: export the graphs, compare them with torch, write the bundle."""
