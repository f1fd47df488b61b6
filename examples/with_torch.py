import torch

import l2o
from l2o.torch import LearnedOptimizer  # JAX is not imported

images = l2o.data.load("mnist_sample")
x = torch.from_numpy(images.x_train).reshape(-1, 784).float() / 255
y = torch.from_numpy(images.y_train).long()

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(784, 20), torch.nn.Sigmoid(), torch.nn.Linear(20, 10))
for p in model.parameters():
    torch.nn.init.normal_(p, std=0.01)  # how lstm-mnist's problems start
optimizer = LearnedOptimizer(model.parameters(), "lstm-mnist")

for _ in range(100):
    batch = torch.randint(len(x), (128,))
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(x[batch]), y[batch])
    loss.backward()
    optimizer.step()
print(loss.item())
