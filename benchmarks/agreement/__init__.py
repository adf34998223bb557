"""Do a parameter server and DDP train the same parameters, whatever the model's hooks do?"""
