import jax
import jax.numpy as jnp

import l2o
from l2o.tasks import style

# Two RGB pictures of any two sizes, uint8 or floats from 0 to 1; of a file: np.asarray(Image.open("photo.jpg").convert("RGB")).
row, column = jnp.meshgrid(jnp.linspace(0, 1, 24), jnp.linspace(0, 1, 32), indexing="ij")
photo = jnp.stack([row, column, 0.5 * jnp.ones((24, 32))], axis=-1)
painting = jnp.broadcast_to(jnp.arange(40)[:, None, None] // 4 % 2, (40, 28, 3)).astype(float)

task = style.between(photo, painting, features="random")  # features="vgg16" needs VGG-16's weights, and paints better
optimizer = l2o.load("lstm-style")
key = jax.random.key(0)
state, losses = l2o.unroll(task, optimizer, l2o.start(task, optimizer, key), key, length=100)
painted = task.image(state.params)  # [24, 32, 3], from 0 to 1

print(f"{losses[-1] / losses[0]:.2f} of the first loss is left")
