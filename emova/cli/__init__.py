"""The sub-commands that come with the library; each module is imported only when its command is called."""
