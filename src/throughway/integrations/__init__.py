"""Other libraries on Throughway's executors. Each module needs its own library, and is imported by itself."""
