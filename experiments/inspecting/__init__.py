"""What `kedit inspect` measures, section by section, and the pages that it leaves."""
