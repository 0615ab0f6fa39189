"""What lies in an archive: folders and tables of pictures, frames, videos, boxes and times."""
