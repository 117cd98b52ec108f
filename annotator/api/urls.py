"""Every address of the API, grouped like the pages."""

from django.urls import path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from annotator.api import (
    backtesting,
    certifying,
    choosing,
    classes,
    elsewhere,
    exporting,
    flagging,
    forecasting,
    importing,
    items,
    labeling,
    projects,
    reviewing,
    suspecting,
    tokens,
    training,
)

project = "v1/projects/<int:project_id>/"

urlpatterns = [
    path("schema/", SpectacularAPIView.as_view(), name="api-schema"),
    path(
        "docs/",
        SpectacularSwaggerSplitView.as_view(url_name="api-schema", template_name="api_docs.html"),
        name="api-docs",
    ),
    # Coming in
    path("v1/tokens/", tokens.Tokens.as_view(), name="api-tokens"),
    path("v1/tokens/<int:token_id>/", tokens.OneToken.as_view(), name="api-token"),
    # The project
    path("v1/projects/", projects.Projects.as_view(), name="api-projects"),
    path(project, projects.OneProject.as_view(), name="api-project"),
    path(f"{project}classes/", classes.Classes.as_view(), name="api-classes"),
    path(f"{project}classes/history/", classes.ClassHistory.as_view(), name="api-class-history"),
    path(f"{project}classes/undo/", classes.ClassUndo.as_view(), name="api-class-undo"),
    path(f"{project}classes/assign/", classes.ClassAssign.as_view(), name="api-class-assign"),
    path(f"{project}classes/<int:class_id>/", classes.OneClass.as_view(), name="api-class"),
    path(f"{project}classes/<int:class_id>/archive/", classes.ClassArchive.as_view(), name="api-class-archive"),
    path(f"{project}classes/<int:class_id>/move/", classes.ClassMove.as_view(), name="api-class-move"),
    path(f"{project}classes/<int:class_id>/merge/", classes.ClassMerge.as_view(), name="api-class-merge"),
    path(f"{project}classes/<int:class_id>/examples/", classes.ClassExamples.as_view(), name="api-class-examples"),
    path(f"{project}groups/", classes.Groupings.as_view(), name="api-groups"),
    path(f"{project}groups/<int:job_id>/", classes.OneGrouping.as_view(), name="api-group"),
    # Import
    path(f"{project}imports/", importing.Imports.as_view(), name="api-imports"),
    path(f"{project}items/", items.Items.as_view(), name="api-items"),
    path(f"{project}items/<int:item_id>/", items.OneItem.as_view(), name="api-item"),
    path(f"{project}items/<int:item_id>/image/", items.ItemImage.as_view(), name="api-item-image"),
    path(f"{project}items/<int:item_id>/thumbnail/", items.ItemThumbnail.as_view(), name="api-item-thumbnail"),
    # Label
    path(f"{project}queue/", labeling.Queue.as_view(), name="api-queue"),
    path(f"{project}queue/reserve/", labeling.QueueReserve.as_view(), name="api-queue-reserve"),
    path(f"{project}queue/chosen/", choosing.QueueChosen.as_view(), name="api-queue-chosen"),
    path(f"{project}queue/renew/", labeling.QueueRenew.as_view(), name="api-queue-renew"),
    path(f"{project}queue/release/", labeling.QueueRelease.as_view(), name="api-queue-release"),
    path(f"{project}annotations/", labeling.Annotations.as_view(), name="api-annotations"),
    path(f"{project}annotations/undo/", labeling.AnnotationsUndo.as_view(), name="api-annotations-undo"),
    # Learn
    path(f"{project}jobs/", training.Jobs.as_view(), name="api-jobs"),
    path(f"{project}jobs/<int:job_id>/", training.OneJob.as_view(), name="api-job"),
    path(f"{project}jobs/<int:job_id>/cancel/", training.JobCancel.as_view(), name="api-job-cancel"),
    path(f"{project}refit/", training.Refit.as_view(), name="api-refit"),
    path(f"{project}train/", training.Train.as_view(), name="api-train"),
    path(f"{project}compare/", training.Compare.as_view(), name="api-compare"),
    path(f"{project}models/", training.Models.as_view(), name="api-models"),
    path(f"{project}progress/", training.Progress.as_view(), name="api-progress"),
    path(f"{project}forecast/", forecasting.Forecast.as_view(), name="api-forecast"),
    path(f"{project}back-tests/", backtesting.BackTests.as_view(), name="api-back-tests"),
    path(f"{project}back-tests/<int:job_id>/", backtesting.BackTestPoints.as_view(), name="api-back-test"),
    # Review
    path(f"{project}proposals/", reviewing.Proposals.as_view(), name="api-proposals"),
    path(f"{project}proposals/decide/", reviewing.ProposalsDecide.as_view(), name="api-proposals-decide"),
    path(f"{project}proposals/undo/", reviewing.ProposalsUndo.as_view(), name="api-proposals-undo"),
    path(f"{project}flags/", flagging.Flags.as_view(), name="api-flags"),
    path(f"{project}flags/<int:flag_id>/lower/", flagging.FlagLower.as_view(), name="api-flag-lower"),
    path(f"{project}items/<int:item_id>/flag/", flagging.ItemFlag.as_view(), name="api-item-flag"),
    path(f"{project}suspects/", suspecting.Suspects.as_view(), name="api-suspects"),
    # Accept unseen
    path(f"{project}gate/", certifying.Gate.as_view(), name="api-gate"),
    path(f"{project}certificates/", certifying.Certificates.as_view(), name="api-certificates"),
    path(f"{project}checks/", certifying.Checks.as_view(), name="api-checks"),
    path(f"{project}rounds/", certifying.Rounds.as_view(), name="api-rounds"),
    path(f"{project}rounds/<int:round_id>/cancel/", certifying.CancelRound.as_view(), name="api-round-cancel"),
    # Export
    path(f"{project}export/", exporting.Export.as_view(), name="api-export"),
    path(f"{project}export/model/", exporting.ModelPackage.as_view(), name="api-export-model"),
    path(f"{project}export/model/<int:job_id>/", exporting.ModelFile.as_view(), name="api-export-model-download"),
    # Last: whatever is none of the above
    path("<path:address>", elsewhere.Elsewhere.as_view(), name="api-elsewhere"),
]
