"""Where units run: in this process, or on Ray. Only modules here import ray."""
