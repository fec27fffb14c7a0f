"""Routes of Quart."""
import offload_db
from quart import Blueprint, Quart
from quart.views import MethodView

pool = offload_db.OffloadPool.from_env()
app = Quart(__name__)
bp = Blueprint("api", __name__, url_prefix="/ignored")


@app.route("/plain")
async def plain():  # route: GET /plain
    pool.connection()


@bp.route("/<int:number>", methods=["POST"])
async def in_blueprint(number):  # route: POST /api/<int:number>
    pool.connection()


@app.websocket("/ws")
async def ws():  # route: WEBSOCKET /ws
    pool.connection()


class View(MethodView):
    async def put(self):  # route: PUT /view
        pool.connection()


async def ruled():  # route: GET /ruled
    pool.connection()


app.add_url_rule("/view", view_func=View.as_view("view"))
app.add_url_rule("/ruled", "ruled", ruled)
app.register_blueprint(bp, url_prefix="/api")
