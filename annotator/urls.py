"""Every address, grouped by step: the table of contents of the web half."""

from django.urls import include, path

from annotator.views import (
    accounts,
    backtesting,
    classes,
    confused,
    dashboard,
    exporting,
    flagging,
    groups,
    guide,
    images,
    importing,
    labeling,
    languages,
    map,
    numbers,
    projects,
    reviewing,
    rounds,
    status,
    suspecting,
    tokens,
    training,
)

handler500 = "annotator.views.broken"

project = "projects/<int:project_id>/"

urlpatterns = [
    # Coming in
    path("", projects.index, name="projects"),
    path("login/", accounts.login, name="login"),
    path("login/<str:uid>/<str:token>/", accounts.login_by_link, name="login-link"),
    path("logout/", accounts.logout, name="logout"),
    path("language/", languages.choose, name="language"),
    path("tokens/", tokens.show, name="tokens"),
    path("tokens/<int:token_id>/revoke/", tokens.revoke, name="token-revoke"),
    # The project
    path("projects/new/", projects.create, name="project-create"),
    path(project, dashboard.show, name="dashboard"),
    path(f"{project}numbers/<slug:which>.csv", numbers.show, name="numbers"),
    path(f"{project}map/", map.show, name="map"),
    path(f"{project}map/points/", map.map_points, name="map-points"),
    path(f"{project}map/choose/", map.choose, name="map-choose"),
    path(f"{project}confused/", confused.show, name="confused"),
    path(f"{project}checks/", dashboard.draw_checks, name="draw-checks"),
    path(f"{project}rounds/", rounds.start, name="start-round"),
    path(f"{project}rounds/<int:round_id>/cancel/", rounds.cancel, name="cancel-round"),
    path(f"{project}settings/", projects.settings, name="project-settings"),
    path(f"{project}classes/", classes.show, name="project-classes"),
    path(f"{project}classes/undo/", classes.undo, name="class-undo"),
    path(f"{project}classes/groups/", groups.show, name="class-groups"),
    path(f"{project}classes/discover/", groups.discover, name="class-discover"),
    path(f"{project}members/", projects.members, name="project-members"),
    # Import
    path(f"{project}import/", importing.show, name="import"),
    path(f"{project}import/files/", importing.files, name="import-files"),
    path(f"{project}items/<int:item_id>/image/", images.image, name="item-image"),
    path(f"{project}items/<int:item_id>/thumbnail/", images.thumbnail, name="item-thumbnail"),
    # Label
    path(f"{project}label/", labeling.show, name="label"),
    path(f"{project}label/next/", labeling.start, name="label-next"),
    path(f"{project}label/undo/", labeling.undo, name="label-undo"),
    path(f"{project}label/renew/", labeling.renew, name="label-renew"),
    path(f"{project}guide/", guide.show, name="guide"),
    # Learn
    path(f"{project}training/", training.show, name="training"),
    path(f"{project}training/preview/", training.preview, name="training-preview"),
    path(f"{project}jobs/<int:job_id>/", training.job, name="job"),
    path(f"{project}jobs/<int:job_id>/cancel/", training.cancel_job, name="job-cancel"),
    path(f"{project}back-test/", backtesting.show, name="back-test"),
    path(f"{project}back-test/<int:job_id>/", backtesting.download, name="back-test-download"),
    # Review
    path(f"{project}review/", reviewing.show, name="review"),
    path(f"{project}review/undo/", reviewing.undo, name="review-undo"),
    path(f"{project}flags/", flagging.show, name="flags"),
    path(f"{project}items/<int:item_id>/flag/", flagging.toggle, name="item-flag"),
    path(f"{project}suspects/", suspecting.show, name="suspects"),
    path(f"{project}suspects/download/", suspecting.download, name="suspects-download"),
    # Export
    path(f"{project}export/", exporting.show, name="export"),
    path(f"{project}export/download/", exporting.download, name="export-download"),
    path(f"{project}export/model/", exporting.package_model, name="export-model"),
    path(f"{project}export/model/<int:job_id>/", exporting.download_model, name="export-model-download"),
    # Machines
    path("api/", include("annotator.api.urls")),
    path("health/", status.health, name="health"),
    path("metrics", status.metrics, name="metrics"),
]
