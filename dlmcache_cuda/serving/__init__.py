"""A server with OpenAI's API. Needs the extra ``serve``; nothing else imports this package."""

from dlmcache_cuda.serving.app import create_app as create_app
from dlmcache_cuda.serving.decode_settings import LaneSettings as LaneSettings
from dlmcache_cuda.serving.intake import ServerDefaults as ServerDefaults
from dlmcache_cuda.serving.limits import Limits as Limits
from dlmcache_cuda.serving.server import bind as bind
from dlmcache_cuda.serving.server import serve as serve
