"""The selective scan: its two operators and their implementations."""
