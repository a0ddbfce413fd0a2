"""Reading, decoding and cropping of training studies, against webdataset and a folder of pictures."""
