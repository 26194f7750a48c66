"""Source of the operator for onnxruntime, which users build at first use; see `vimzoo.onnxruntime_extension`."""
