"""Routes of Sanic."""
import offload_db
from sanic import Blueprint, Sanic
from sanic.views import HTTPMethodView

pool = offload_db.OffloadPool.from_env()
app = Sanic("fleet")
bp = Blueprint("trucks", url_prefix="/trucks")


@app.get("/direct")
async def direct(request):  # route: GET /direct
    pool.connection()


@bp.post("/<truck_id:str>")
async def in_blueprint(request, truck_id):  # route: POST /trucks/<truck_id:str>
    pool.connection()


@bp.route("/many", methods=["GET", "PUT"])
async def many(request):  # route: GET /trucks/many, PUT /trucks/many
    pool.connection()


class View(HTTPMethodView):
    async def get(self, request):  # route: GET /view
        pool.connection()


async def added(request):  # route: DELETE /added
    pool.connection()


app.add_route(View.as_view(), "/view")
app.add_route(added, "/added", methods=["DELETE"])
app.blueprint(bp)
