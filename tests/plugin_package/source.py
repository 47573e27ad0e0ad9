"""Text out of nothing."""

from tfllm.data.sources.source import TextSource, settings_digest


class DoorsSource(TextSource):
    def __init__(self, *, count, section):
        self.count, self.section = count, section

    def documents(self):
        for i in range(self.count):
            yield f"The {i}th door opens when the {i + 1}th one is shut."

    def describe(self):
        return f"{self.count} doors"

    def fingerprint(self):
        return settings_digest(type="doors", count=self.count)
