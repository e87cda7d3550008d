"""Signing up."""

from __future__ import annotations

from django.db import IntegrityError, transaction
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.http import require_POST

from signup.announcing import announce_when_committed
from signup.models import Account, Nickname


@require_POST
def register(request: HttpRequest) -> JsonResponse:
    """Makes an account and its nickname, or neither."""
    try:
        with transaction.atomic():
            account = Account.objects.create(email=request.POST["email"])
            announce_when_committed(account)
            Nickname.objects.create(name=request.POST["name"], account=account)
    except IntegrityError:
        return JsonResponse({"error": "there is such an account or name already"}, status=409)
    return JsonResponse({"account": account.pk}, status=201)


urlpatterns = [path("users", register)]
