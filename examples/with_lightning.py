import lightning
import torch
from torch.utils.data import DataLoader, TensorDataset

import l2o
import l2o.torch

images = l2o.data.load("mnist_sample")
x = torch.tensor(images.x_train).reshape(-1, 784) / 255
y = torch.tensor(images.y_train).long()


class Perceptron(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(784, 20), torch.nn.Sigmoid(), torch.nn.Linear(20, 10))

    def training_step(self, batch, index):
        x, y = batch
        return torch.nn.functional.cross_entropy(self.net(x), y)

    def configure_optimizers(self):
        return l2o.torch.LearnedOptimizer(self.net.parameters(), "lstm-mnist")


torch.manual_seed(0)
model = Perceptron()
batches = DataLoader(TensorDataset(x, y), batch_size=128, shuffle=True)
trainer = lightning.Trainer(
    max_steps=100,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(model, batches)
with torch.no_grad():
    print(torch.nn.functional.cross_entropy(model.net(x), y).item())
