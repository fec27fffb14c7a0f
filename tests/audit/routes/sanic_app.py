"""Routes of Sanic."""
import offload_db
from sanic import Blueprint, Sanic
from sanic.views import HTTPMethodView

pool = offload_db.OffloadPool.from_env()
app = Sanic("fleet")
bp = Blueprint("trucks", url_prefix="/trucks")
second = Blueprint("second", url_prefix="/second", version=2)
third = Blueprint("third", "/third")
group = Blueprint.group(second, url_prefix="/group")


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
app.blueprint(group)


@second.get("/")
async def in_group(request):  # route: GET /v2/group/second/
    pool.connection()


@app.get("/versioned", version="v3")
async def versioned(request):  # route: GET /v3/versioned
    pool.connection()


@third.route("/set", methods=frozenset({"PATCH"}))
async def of_set(request):  # route: PATCH /third/set
    pool.connection()


app.blueprint([third])
