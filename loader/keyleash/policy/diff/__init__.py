"""The semantic difference of two policies: calls and rules that each identity gains or loses."""
