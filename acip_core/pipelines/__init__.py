"""The long runs behind the commands: each can be interrupted and continues where it was."""
