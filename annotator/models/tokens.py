from django.conf import settings
from django.db import models


class ApiToken(models.Model):
    """A program's key to what one person may do. Only its hash is kept; the token itself was shown once.

    A token is 256 random bits, so one round of SHA-256 is enough: there is nothing to guess.
    """

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="api_tokens")
    name = models.CharField(max_length=80, help_text="what it is for")
    start = models.CharField(max_length=16, help_text="its first characters, to tell tokens apart")
    sha256 = models.CharField(max_length=64, unique=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"{self.name} ({self.start}…)"
