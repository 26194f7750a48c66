"""Source of the operator for OpenVINO, which users build at first use; see `vimzoo.openvino_extension`."""
